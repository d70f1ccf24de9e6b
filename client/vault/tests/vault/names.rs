//! Single names: put, get, range, look at, create, replace, list, delete.

use crate::s3d::S3d;
use crate::stand::{class, file, options, places, s3, soon};
use perilune_vault::{Class, Options, Vault};

#[test]
fn what_was_put_is_there_until_it_is_deleted() {
    for stand in places() {
        let vault = &stand.vault;
        assert_eq!(class(vault.get("a/b", None, soon())), Class::NoObject, "{vault:?}");
        assert_eq!(class(vault.head("a/b", soon())), Class::NoObject, "{vault:?}");
        vault.put("a/b", "first".into(), soon()).unwrap();
        vault.put("a/b", "second".into(), soon()).unwrap();
        let got = vault.get("a/b", None, soon()).unwrap();
        assert_eq!((&got.bytes[..], got.size), (&b"second"[..], 6), "{vault:?}");
        let got = vault.get("a/b", Some(2..4), soon()).unwrap();
        assert_eq!((&got.bytes[..], got.size), (&b"co"[..], 6), "{vault:?}");
        assert_eq!(&vault.get("a/b", Some(4..100), soon()).unwrap().bytes[..], b"nd", "{vault:?}");
        assert_eq!(class(vault.get("a/b", Some(6..7), soon())), Class::Damaged, "{vault:?}");
        assert_eq!(vault.head("a/b", soon()), Ok(6), "{vault:?}");
        vault.delete("a/b", soon()).unwrap();
        vault.delete("a/b", soon()).unwrap();
        assert_eq!(class(vault.get("a/b", None, soon())), Class::NoObject, "{vault:?}");
        assert_eq!(vault.list("", None, 10, soon()), Ok(vec![]), "{vault:?}");
    }
}

#[test]
fn one_of_many_creates_a_name() {
    for stand in places() {
        let vault = &stand.vault;
        let winners: Vec<u8> = std::thread::scope(|threads| {
            let tries: Vec<_> =
                (0..8).map(|n: u8| threads.spawn(move || vault.create("owner/00000001", vec![n].into(), soon()).map(|()| n))).collect();
            tries
                .into_iter()
                .filter_map(|one| match one.join().unwrap() {
                    Ok(n) => Some(n),
                    Err(fault) => {
                        assert_eq!(fault.class, Class::Exists, "{fault}");
                        None
                    }
                })
                .collect()
        });
        assert_eq!(winners.len(), 1, "{vault:?}");
        assert_eq!(vault.get("owner/00000001", None, soon()).unwrap().bytes, winners, "{vault:?}");
    }
}

#[test]
fn what_is_there_is_replaced_by_who_knows_it() {
    for stand in places() {
        let vault = &stand.vault;
        let replace = |there: &'static str, bytes: &'static str| vault.replace("a/b", there.into(), bytes.into(), soon());
        assert_eq!(class(replace("first", "second")), Class::NoObject, "{vault:?}");
        vault.put("a/b", "first".into(), soon()).unwrap();
        replace("first", "second").unwrap();
        assert_eq!(class(replace("first", "third")), Class::Exists, "{vault:?}");
        assert_eq!(&vault.get("a/b", None, soon()).unwrap().bytes[..], b"second", "{vault:?}");
    }
}

#[test]
fn of_many_that_count_in_a_bucket_none_counts_what_another_did() {
    let stand = s3(&options());
    let vault = &stand.vault;
    vault.put("count", "0".into(), soon()).unwrap();
    let counted = |bytes: &[u8]| -> u32 { std::str::from_utf8(bytes).unwrap().split(' ').next().unwrap().parse().unwrap() };
    // With a name of its own: who repeats a request takes what it would have written for its own.
    let count = |name: usize| {
        let there = vault.get("count", None, soon()).unwrap().bytes;
        let next = format!("{} {name}", counted(&there) + 1);
        vault.replace("count", there, next.into(), soon())
    };
    std::thread::scope(|threads| {
        for name in 0..4 {
            threads.spawn(move || {
                for _ in 0..5 {
                    while let Err(fault) = count(name) {
                        assert_eq!(fault.class, Class::Exists, "{fault}");
                    }
                }
            });
        }
    });
    assert_eq!(counted(&vault.get("count", None, soon()).unwrap().bytes), 20);
}

#[test]
fn pages_follow_each_other_in_the_order_of_names() {
    for stand in places() {
        let vault = &stand.vault;
        // A folder stands where its name with a `/` does: behind `b-`, before `b0`.
        let names = ["a", "b-/x", "b/c/1", "b/c/2", "b/d", "b0", "c/1"];
        for name in names.iter().rev() {
            vault.put(name, name.to_string().into(), soon()).unwrap();
        }
        for size in 1..=names.len() + 1 {
            let mut seen: Vec<String> = Vec::new();
            loop {
                let page = vault.list("", seen.last().map(String::as_str), size, soon()).unwrap();
                assert!(page.len() <= size && page.iter().all(|one| one.size == one.name.len() as u64));
                seen.extend(page.iter().map(|one| one.name.clone()));
                if page.len() < size {
                    break;
                }
            }
            assert_eq!(seen, names, "{vault:?}, pages of {size}");
        }
        let below = |folder| vault.list(folder, None, 9, soon()).unwrap().into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(below("b"), ["b/c/1", "b/c/2", "b/d"], "{vault:?}");
        assert_eq!(below("b/c"), ["b/c/1", "b/c/2"], "{vault:?}");
        assert_eq!(below("missing"), [""; 0], "{vault:?}");
    }
}

#[test]
fn names_lead_nowhere_else() {
    for stand in [file(&options()), s3(&options())] {
        let long = "a".repeat(600);
        for wrong in ["", "/", "a//b", "../a", "a/../../b", "/a", "a/", ".uploads/x", "a b", "a\0", "ä", "a?b", "a%2e", &long] {
            assert_eq!(class(stand.vault.put(wrong, "x".into(), soon())), Class::Invalid, "{wrong}");
            assert_eq!(class(stand.vault.get(wrong, None, soon())), Class::Invalid, "{wrong}");
            assert_eq!(class(stand.vault.delete(wrong, soon())), Class::Invalid, "{wrong}");
        }
        assert_eq!(stand.s3.as_ref().map_or(0, |s3| s3.requests().len()), 0);
    }
}

#[test]
fn what_is_missing_is_said() {
    let s3d = S3d::start();
    let nowhere = Vault::open(&s3d.target("nowhere", ""), &options()).unwrap();
    let stand = file(&options());
    std::fs::remove_dir(&stand.files).unwrap();
    for vault in [&nowhere, &stand.vault] {
        assert_eq!(class(vault.put("a/b", "x".into(), soon())), Class::NoBucket);
        assert_eq!(class(vault.get("a/b", None, soon())), Class::NoBucket);
        assert_eq!(class(vault.head("a/b", soon())), Class::NoBucket);
        assert_eq!(class(vault.delete("a/b", soon())), Class::NoBucket);
        assert_eq!(class(vault.ready(soon())), Class::NoBucket);
    }
    assert!(!stand.files.exists(), "nobody makes the directory of a vault");

    let keyless = Options { keys: None, ..options() };
    assert_eq!(class(Vault::open(&s3d.target("cold", ""), &keyless)), Class::Invalid);
    assert_eq!(class(Vault::open(&s3d.target("cold", "a/../b"), &options())), Class::Invalid);
}
