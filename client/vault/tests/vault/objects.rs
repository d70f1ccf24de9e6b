//! Objects: written and read whole and in part, wrong ones not at all, sealed ones unreadable without their key.

use crate::stand::{MIB, Stand, class, file, object, options, places, read, s3, sealed, soon, value, write};
use perilune_vault::{Class, Key, Options, Vault};

#[test]
fn values_come_back_whole_and_in_part() {
    for stand in places() {
        for (number, len) in [1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB + 5, 25 * MIB + 5].into_iter().enumerate() {
            let value = value(len);
            let object = object(number as u128, &value);
            let stored = write(&stand.vault, &object, &value).unwrap();
            let path = perilune_vault::ColdObject::path(object.name);
            assert_eq!(stand.vault.head(&path, soon()), Ok(stored));
            let len = len as u64;
            for range in [0..len, 0..1, len - 1..len, len / 2..len / 2 + 1, len / 3..len, len.saturating_sub(5 * MIB as u64)..len] {
                let right = read(&stand.vault, &object, range.clone()).unwrap() == value[range.start as usize..range.end as usize];
                assert!(right, "{range:?} of {len} in {:?}", stand.vault);
            }
            for (start, end) in [(0, 0), (len, len), (0, len + 1), (len, len + 1), (u64::MAX - 1, u64::MAX)] {
                assert_eq!(class(read(&stand.vault, &object, start..end)), Class::Invalid);
            }
        }
    }
}

#[test]
fn what_is_not_the_value_is_not_uploaded() {
    for stand in places() {
        for len in [1000, 29 * MIB] {
            let value = value(len);
            let mut object = object(len as u128, &value);
            object.checksum ^= 1;
            assert_eq!(class(write(&stand.vault, &object, &value)), Class::Wrong, "{:?}", stand.vault);
            let give_up = stand.vault.write_object(&object, Box::new(|_, _| Err("its lease lapsed".into())), soon());
            assert_eq!(class(give_up), Class::Caller);
            assert_eq!(stand.vault.list("objects", None, 10, soon()), Ok(vec![]), "{:?}", stand.vault);
        }
        eventually_no_upload_is_left(&stand);
    }
}

#[test]
fn an_upload_that_was_begun_is_told_of_until_it_has_ended_and_can_be_aborted_by_others() {
    let stand = s3(&options());
    let s3d = stand.s3.as_ref().unwrap();
    let value = value(29 * MIB);
    let (saved, given_up) = (object(1, &value), object(2, &value));
    // Its note stays, as if its process had been killed before that was deleted.
    s3d.say("fault refuse 403 1 delete");
    write(&stand.vault, &saved, &value).unwrap();
    // Neither its parts are forgotten nor its note.
    s3d.say("fault refuse 403 1 DELETE /cold/a/prefix/objects/00/00000000-0000-0000-0000-000000000002?uploadId=");
    let (vault, name) = (stand.vault.clone(), given_up.name);
    let source = move |at: u64, room: &mut [u8]| {
        let told = vault.begun(soon()).unwrap();
        assert!(at < 9 * MIB as u64 || told.contains(&name), "there may be parts, and nobody is told: {told:?}");
        room.fill(7);
        if at < 20 * MIB as u64 { Ok(()) } else { Err("its lease lapsed".into()) }
    };
    assert_eq!(class(stand.vault.write_object(&given_up, Box::new(source), soon())), Class::Caller);
    let until = soon();
    while s3d.say("faults").trim() != "0" {
        assert!(std::time::Instant::now() < until, "nobody tried to abort it");
        std::thread::yield_now();
    }
    assert_eq!((stand.vault.begun(soon()).unwrap(), s3d.uploads()), (vec![saved.name, given_up.name], 1));
    for name in [saved.name, given_up.name, given_up.name] {
        stand.vault.abandon(name, soon()).unwrap();
    }
    assert_eq!((stand.vault.begun(soon()).unwrap(), s3d.uploads()), (vec![], 0));
    assert!(read(&stand.vault, &saved, 0..value.len() as u64).unwrap() == value, "what has become an object stays");
}

/// Uploads are forgotten aside; the test waits for that, not for a time.
fn eventually_no_upload_is_left(stand: &Stand) {
    let left = || match &stand.s3 {
        None => std::fs::read_dir(stand.files.join(".uploads")).unwrap().count(),
        Some(s3) => s3.uploads() + stand.vault.begun(soon()).unwrap().len(),
    };
    let until = soon();
    while left() > 0 {
        assert!(std::time::Instant::now() < until, "{} uploads are left in {:?}", left(), stand.vault);
        std::thread::yield_now();
    }
}

#[test]
fn sizes_and_keys_that_no_object_has_are_refused() {
    let stand = file(&options());
    let mut empty = object(1, b"x");
    empty.size = 0;
    assert_eq!(class(write(&stand.vault, &empty, b"")), Class::Invalid);
    let mut keyless = object(2, b"x");
    keyless.key = "".into();
    assert_eq!(class(write(&stand.vault, &keyless, b"x")), Class::Invalid);
}

#[test]
fn no_plain_byte_of_a_sealed_object_is_on_disk() {
    let stand = file(&sealed());
    let value = b"attention is all you need ".repeat(400);
    let object = object(9, &value);
    write(&stand.vault, &object, &value).unwrap();
    let path = stand.files.join(perilune_vault::ColdObject::path(object.name));
    let stored = std::fs::read(path).unwrap();
    let has = |text: &[u8]| stored.windows(text.len()).any(|window| window == text);
    assert!(!has(b"attention") && !has(b"a key") && !has(&object.checksum.to_le_bytes()));

    let target = perilune_vault::Target::File(stand.files.clone());
    let open = |key, sse| Vault::open(&target, &Options { key, sse, ..options() }).unwrap();
    let len = value.len() as u64;
    assert_eq!(read(&open(Some(Key::new([7; 32])), false), &object, 0..len), Ok(value), "sse says how to write, not how to read");
    assert_eq!(class(read(&open(None, false), &object, 0..len)), Class::Invalid);
    assert_eq!(class(read(&open(Some(Key::new([8; 32])), true), &object, 0..len)), Class::Damaged);
    assert_eq!(class(Vault::open(&target, &Options { sse: true, ..options() })), Class::Invalid);
}

#[test]
fn encryption_is_asked_for_on_every_upload() {
    for sse in [true, false] {
        let stand = s3(&Options { sse, ..options() });
        stand.vault.put("small", "x".into(), soon()).unwrap();
        stand.vault.create("claim", "x".into(), soon()).unwrap();
        for (number, len) in [(1, 1000), (2, 9 * MIB)] {
            let value = value(len);
            write(&stand.vault, &object(number, &value), &value).unwrap();
        }
        let requests = stand.s3.as_ref().unwrap().requests();
        let begins = |r: &&serde_json::Value| {
            let target = r["target"].as_str().unwrap();
            r["method"] == "PUT" && !target.contains("partNumber=") || r["method"] == "POST" && target.contains("uploads")
        };
        let asked: Vec<_> = requests.iter().filter(begins).map(|r| r["headers"]["x-amz-server-side-encryption"].as_str()).collect();
        assert_eq!(asked, vec![sse.then_some("AES256"); 4], "{requests:#?}");
    }
}
