//! Everything is killed, the masters' data is gone, and a dump brings it back: the memory was there all the time.

use crate::group::{Process, Shared, at};
use crate::harness::{perilune, run, said, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const GROUP: u8 = 2;
const KEYS: usize = 50;

fn spawn(command: &mut Command, ready: &Path) -> Process {
    let _ = std::fs::remove_file(ready);
    let mut process = Process(command.arg("--ready-file").arg(ready).stdout(Stdio::null()).spawn().unwrap());
    wait_for("it to be up", || {
        assert_eq!(process.0.try_wait().unwrap(), None, "{command:?} ended");
        ready.exists().then_some(())
    });
    process
}

fn master(dir: &Path, data: &str, more: &[&str]) -> Process {
    let mut command = perilune();
    command.args(["master", "--rpc", &at(GROUP, 10_001), "--http", &at(GROUP, 30_001)]).args(more);
    spawn(command.arg("--data-dir").arg(dir.join(data)), &dir.join("ready"))
}

fn store(dir: &Path) -> Process {
    let mut command = perilune();
    command.args(["store", "--master", &at(GROUP, 10_001), "--http", "127.0.0.1:0", "--segment-size", "64MiB"]);
    spawn(command.arg("--data-dir").arg(dir.join("node")), &dir.join("ready"))
}

fn value(nth: usize) -> Vec<u8> {
    (0..1000 + 97 * nth).map(|byte| (byte * (nth + 7)) as u8).collect()
}

#[test]
fn a_dump_brings_back_what_the_nodes_still_hold() {
    let dir = tempfile::tempdir().unwrap();
    let _shared = Shared(dir.path().join("node"));
    let (old_master, old_store) = (master(dir.path(), "first", &[]), store(dir.path()));
    let ok = |args: &[&str]| {
        let output = run(args.iter().copied().chain(["--master", &at(GROUP, 10_001), "--deadline", "30s"]));
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        output.stdout
    };
    for nth in 0..KEYS {
        let file = dir.path().join("value");
        std::fs::write(&file, value(nth)).unwrap();
        ok(&["put", &format!("key-{nth}"), file.to_str().unwrap()]);
    }
    let url = format!("http://{}/snapshot/dump", at(GROUP, 30_001));
    let dump: PathBuf = dir.path().join("dump");
    std::fs::write(&dump, ureq::get(url).call().unwrap().body_mut().read_to_vec().unwrap()).unwrap();
    drop((old_master, old_store));
    std::fs::remove_dir_all(dir.path().join("first")).unwrap();

    // What is cut short is refused, and leaves nothing behind.
    let whole = std::fs::read(&dump).unwrap();
    let cut = dir.path().join("cut");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let restored = dir.path().join("restored");
    let mut refused = perilune();
    refused.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--restore"]).arg(&cut).arg("--data-dir").arg(&restored);
    let refused = refused.output().unwrap();
    assert!(refused.status.code() == Some(1) && said(&refused).contains("cannot be restored from"), "{}", said(&refused));
    assert!(!restored.join("master").exists());

    let new_master = master(dir.path(), "restored", &["--restore", dump.to_str().unwrap()]);
    let new_store = store(dir.path());
    for nth in 0..KEYS {
        assert!(ok(&["get", &format!("key-{nth}")]) == value(nth), "key-{nth} has other bytes");
    }
    ok(&["rm", "key-0", "--force"]);
    drop((new_store, new_master));

    // In use now: started as it is, not restored into.
    let mut again = perilune();
    again.args(["master", "--rpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--restore"]).arg(&dump).arg("--data-dir").arg(&restored);
    let again = again.output().unwrap();
    assert!(again.status.code() == Some(1) && said(&again).contains("is not empty"), "{}", said(&again));
    let _processes = (master(dir.path(), "restored", &[]), store(dir.path()));
    assert!(ok(&["get", "key-1"]) == value(1));
    let gone = run(["get", "key-0", "--master", &at(GROUP, 10_001)]);
    assert!(!gone.status.success(), "what was removed after the restoring stays removed");
}
