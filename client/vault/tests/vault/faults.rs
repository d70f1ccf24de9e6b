//! A server that is slow, refuses, dies half-way or forgets to answer: repeated or said, never torn.

use crate::s3d::{AK, BUCKET, S3d, SK};
use crate::stand::{LIMITS, MIB, Stand, class, file, object, options, read, s3, soon, value, write};
use perilune_vault::{Class, Keys, Limits, Options, Vault};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

fn count(stand: &Stand, method: &str) -> usize {
    stand.s3.as_ref().unwrap().requests().iter().filter(|request| request["method"] == method).count()
}

#[test]
fn what_passes_is_repeated() {
    let impatient = Options { limits: Limits { attempt: Duration::from_millis(700), ..LIMITS }, ..options() };
    let stand = s3(&impatient);
    let s3d = stand.s3.as_ref().unwrap();
    for (number, fault) in ["refuse 503 2", "refuse 500 1", "refuse 429 1", "die 3 2", "slow 3000 1", "lose 1"].into_iter().enumerate() {
        let name = format!("object-{number}");
        s3d.say("requests forget");
        s3d.say(&format!("fault {fault} PUT"));
        stand.vault.put(&name, "some bytes".into(), soon()).unwrap();
        assert!(count(&stand, "PUT") > 1 || fault.starts_with("slow"), "{fault}: {:#?}", s3d.requests());
        s3d.say(&format!("fault {fault} GET"));
        assert_eq!(&stand.vault.get(&name, None, soon()).unwrap().bytes[..], b"some bytes", "{fault}");
        s3d.say(&format!("fault {fault} DELETE"));
        stand.vault.delete(&name, soon()).unwrap();
        assert_eq!(class(stand.vault.head(&name, soon())), Class::NoObject);
        s3d.say("faults off");
    }
    assert!(!stand.vault.is_away());
}

#[test]
fn uploads_and_reads_outlive_deaths_half_way() {
    let stand = s3(&options());
    let s3d = stand.s3.as_ref().unwrap();
    let value = value(29 * MIB);
    let len = value.len() as u64;
    for (number, fault) in [
        "die 1000000 2 partNumber=",
        "die 5000000 1 partNumber=2",
        "refuse 503 2 partNumber=",
        "lose 2 partNumber=",
        "lose 1 ?uploads",
        "refuse 503 1 ?uploads",
        "lose 1 POST /cold/a/prefix/objects/00/00000000-0000-0000-0000-000000000006?uploadId=",
        "refuse 503 2 ?uploadId=",
    ]
    .into_iter()
    .enumerate()
    {
        let object = object(number as u128, &value);
        s3d.say(&format!("fault {fault}"));
        write(&stand.vault, &object, &value).unwrap_or_else(|told| panic!("{fault}: {told}"));
        s3d.say("faults off");
        s3d.say(&format!("fault die {} 2 GET", 3 * MIB));
        assert!(read(&stand.vault, &object, 0..len).unwrap_or_else(|told| panic!("{fault}: {told}")) == value, "{fault}");
        s3d.say("faults off");
    }
}

#[test]
fn what_broke_off_is_looked_for_before_it_is_sent_again() {
    let stand = s3(&options());
    let (s3d, value) = (stand.s3.as_ref().unwrap(), value(2 * MIB));
    s3d.say("fault lose 1 PUT");
    write(&stand.vault, &object(50, &value), &value).unwrap();
    assert_eq!((count(&stand, "PUT"), count(&stand, "HEAD")), (1, 1), "{:#?}", s3d.requests());
    assert!(read(&stand.vault, &object(50, &value), 0..value.len() as u64).unwrap() == value);
    // Refused in the middle of what is sent, which then cannot be read.
    s3d.say("fault die 1000 1000000 PUT");
    s3d.say(&format!("key remove {AK}"));
    assert_eq!(class(write(&stand.vault, &object(51, &value), &value)), Class::Refused);
    s3d.say("faults off");
    s3d.say(&format!("key add {AK} {SK}"));
}

#[test]
fn a_claim_whose_answer_was_lost_is_still_the_callers() {
    let stand = s3(&options());
    let s3d = stand.s3.as_ref().unwrap();
    s3d.say("fault lose 1 PUT");
    stand.vault.create("owner/1", "mine".into(), soon()).unwrap();
    s3d.say("fault lose 1 PUT");
    assert_eq!(class(stand.vault.create("owner/1", "theirs".into(), soon())), Class::Exists);
    assert_eq!(&stand.vault.get("owner/1", None, soon()).unwrap().bytes[..], b"mine");
}

#[test]
fn a_refusal_is_told_at_once_and_new_keys_open() {
    let stand = s3(&options());
    let s3d = stand.s3.as_ref().unwrap();
    stand.vault.put("a", "x".into(), soon()).unwrap();
    s3d.say("key remove AKIAPERILUNE");
    s3d.say("requests forget");
    assert_eq!(class(stand.vault.get("a", None, soon())), Class::Refused);
    assert_eq!(class(stand.vault.put("a", "y".into(), soon())), Class::Refused);
    assert_eq!(s3d.requests().len(), 2, "nobody asks again with the same keys");

    s3d.say("key add AKIANEWER other/secret");
    let open = |keys| Vault::open(&s3d.target(BUCKET, "a/prefix"), &Options { keys: Some(keys), ..options() }).unwrap();
    let newer = open(Keys::new("AKIANEWER", "other/secret"));
    assert_eq!(&newer.get("a", None, soon()).unwrap().bytes[..], b"x");
    assert_eq!(class(open(Keys::new("AKIANEWER", SK)).get("a", None, soon())), Class::Refused, "a wrong signature");
    s3d.say(&format!("key add {AK} {SK}"));
    stand.vault.put("a", "z".into(), soon()).unwrap();
    assert!(!stand.vault.is_away());
}

#[test]
fn while_the_vault_is_away_everybody_is_told_at_once() {
    let patient = Limits { pause_min: Duration::from_millis(2), pause_max: Duration::from_millis(300), ..LIMITS };
    let stand = s3(&Options { limits: patient, ..options() });
    let s3d = stand.s3.as_ref().unwrap();
    s3d.say("fault refuse 503 1000000");
    let told = stand.vault.put("a", "x".into(), soon()).unwrap_err();
    assert_eq!(told.class, Class::Away, "{told}");
    assert!(told.message.contains("503"), "{told}");
    assert!(stand.vault.is_away());
    s3d.say("requests forget");
    for _ in 0..1000 {
        assert_eq!(class(stand.vault.put("a", "x".into(), soon())), Class::Away);
    }
    assert!(s3d.requests().len() < 100, "{} of 1000 went out", s3d.requests().len());

    s3d.say("faults off");
    let until = soon();
    while stand.vault.put("a", "x".into(), soon()).is_err() {
        assert!(Instant::now() < until, "no probe finds out that the vault is back");
    }
    assert!(!stand.vault.is_away());
}

#[test]
fn a_server_that_is_gone_is_away() {
    let mut stand = s3(&options());
    let value = value(29 * MIB);
    let (mut served, mut s3d, object) = (0, stand.s3.take().unwrap(), object(1, &value));
    let source = move |at: u64, room: &mut [u8]| {
        served += 1;
        if served == 3 {
            // In the midst of an upload.
            s3d.kill();
        }
        room.copy_from_slice(&value[at as usize..][..room.len()]);
        Ok(())
    };
    let told = stand.vault.write_object(&object, Box::new(source), Instant::now() + Duration::from_secs(2)).unwrap_err();
    assert_eq!(told.class, Class::Away, "{told}");
    assert!(!stand.files.join("objects/00/00000000-0000-0000-0000-000000000001").exists());
}

#[test]
fn nothing_takes_longer_than_its_deadline() {
    let stand = s3(&options());
    stand.s3.as_ref().unwrap().say("fault slow 3600000 1000");
    let begun = Instant::now();
    let told = stand.vault.get("a", None, begun + Duration::from_millis(300)).unwrap_err();
    assert_eq!(told.class, Class::Away, "{told}");
    assert_eq!(class(stand.vault.get("a", None, begun)), Class::Away, "a deadline that has passed");
    assert!(begun.elapsed() < Duration::from_secs(20), "an hour was asked for");
}

#[test]
fn nobody_is_found_where_nobody_listens() {
    let s3d = S3d::start();
    let target = s3d.target(BUCKET, "");
    drop(s3d);
    let vault = Vault::open(&target, &options()).unwrap();
    assert_eq!(class(vault.ready(soon())), Class::Away);
    assert!(vault.is_away());
}

#[test]
fn a_call_that_took_too_long_reads_no_more() {
    /// Longer than an attempt of so few bytes may take.
    const SLOW: Duration = Duration::from_millis(700);
    let limits = Limits { attempt: Duration::from_millis(300), failures: 1000, ..LIMITS };
    let stand = file(&Options { limits, ..options() });
    let value = value(MIB);
    let object = object(1, &value);

    let (from, mut asked) = (value.clone(), Vec::new());
    let (tell, told) = channel();
    let source = move |at: u64, room: &mut [u8]| {
        if asked.is_empty() {
            std::thread::sleep(SLOW);
        }
        asked.push(at);
        room.copy_from_slice(&from[at as usize..][..room.len()]);
        tell.send(asked.clone()).map_err(|e| e.to_string())
    };
    stand.vault.write_object(&object, Box::new(source), soon()).unwrap();
    let asked = told.try_iter().last().unwrap();
    assert_eq!(asked[..2], [0, 0], "the first attempt is given up, and the next begins anew");
    assert!(asked.windows(2).all(|pair| pair[1] == 0 || pair[1] - pair[0] == asked[2]), "what was given up asked for more: {asked:?}");
    assert_eq!(stand.vault.list("objects", None, 10, soon()).unwrap().len(), 1);
    assert!(read(&stand.vault, &object, 0..MIB as u64).unwrap() == value);
}
