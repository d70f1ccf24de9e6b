//! RDMA flags that this machine cannot meet: the program ends with a sentence instead of going on without.

use crate::harness::{finish, perilune, said};
use std::net::TcpListener;

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_gid_index_or_a_device_that_does_not_exist_ends_the_node_with_a_sentence() {
    let device = std::fs::read_dir("/sys/class/infiniband").unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    for (flags, sentence) in [
        (["--rdma-gid-index", "77"], "the port has no GID of index 77; it has "),
        (["--rdma-devices", "mlx5_77"], "there is no RDMA device `mlx5_77`; there are: "),
    ] {
        for protocol in ["tcp", "rdma"] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = perilune();
            command
                .args(["store", "--segment-size", "1MiB", "--http", "127.0.0.1:0", "--protocol", protocol, "--data-dir"])
                .arg(dir.path());
            let output = finish(command.args(flags));
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{flags:?}: {text}");
            assert!(text.contains("the transfer engine cannot start") && text.contains(sentence) && text.contains(&device), "{text}");
        }
    }
}

#[test]
#[ignore = "needs an RDMA device: scripts/rxe-vm"]
fn a_port_for_rdma_peers_that_is_taken_ends_the_node_with_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let mut command = perilune();
    command.args(["store", "--segment-size", "1MiB", "--http", "127.0.0.1:0", "--rdma-port", &port, "--data-dir"]).arg(dir.path());
    let output = finish(&mut command);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port} for RDMA peers")), "{text}");
}
