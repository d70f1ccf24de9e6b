//! What was altered, cut, lengthened or exchanged in the vault is damaged, and no byte of it is given.

use crate::stand::{MIB, Stand, class, file, object, options, places, read, s3, value, write};
use perilune_vault::{Class, ColdObject};
use std::fs;

fn path(stand: &Stand, object: &ColdObject) -> std::path::PathBuf {
    stand.files.join(ColdObject::path(object.name))
}

#[test]
fn every_altered_byte_is_found() {
    for stand in [file(&options()), file(&crate::stand::sealed())] {
        let value = value(50);
        let object = object(1, &value);
        write(&stand.vault, &object, &value).unwrap();
        let path = path(&stand, &object);
        let right = fs::read(&path).unwrap();
        for at in 0..right.len() {
            let mut altered = right.clone();
            altered[at] ^= 0x20;
            fs::write(&path, altered).unwrap();
            assert_eq!(class(read(&stand.vault, &object, 0..50)), Class::Damaged, "byte {at}");
            fs::write(&path, &right[..at]).unwrap();
            assert_eq!(class(read(&stand.vault, &object, 0..50)), Class::Damaged, "cut at {at}");
        }
        fs::write(&path, [&right[..], b"x"].concat()).unwrap();
        assert_eq!(class(read(&stand.vault, &object, 0..50)), Class::Damaged, "lengthened");
        fs::write(&path, right).unwrap();
        assert_eq!(read(&stand.vault, &object, 0..50), Ok(value));
    }
}

#[test]
fn a_damaged_piece_spoils_only_reads_that_touch_it() {
    for stand in places() {
        let value = value(13 * MIB);
        let object = object(2, &value);
        write(&stand.vault, &object, &value).unwrap();
        let path = path(&stand, &object);
        let right = fs::read(&path).unwrap();
        let mut altered = right.clone();
        // In the third of four pieces.
        altered[9 * MIB] ^= 1;
        fs::write(&path, &altered).unwrap();
        let (mib, len) = (MIB as u64, value.len() as u64);
        let mut given = Vec::new();
        let mut sink = |_: u64, bytes: &[u8]| {
            given.extend_from_slice(bytes);
            Ok(())
        };
        let whole = stand.vault.read_object(&object, 0..len, &mut sink, crate::stand::soon());
        assert_eq!(class(whole), Class::Damaged, "{:?}", stand.vault);
        assert!(value.starts_with(&given) && given.len() <= 8 * MIB);
        assert_eq!(class(read(&stand.vault, &object, 8 * mib..8 * mib + 1)), Class::Damaged);
        assert!(read(&stand.vault, &object, 0..8 * mib).unwrap() == value[..8 * MIB]);
        assert!(read(&stand.vault, &object, 12 * mib..len).unwrap() == value[12 * MIB..]);

        // The end alone is missing, and the end of another length.
        for len in [right.len() - 1, 9 * MIB, 64, 0] {
            fs::write(&path, &right[..len]).unwrap();
            assert_eq!(class(read(&stand.vault, &object, 0..1)), Class::Damaged, "{len} bytes in {:?}", stand.vault);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(class(read(&stand.vault, &object, 0..1)), Class::NoObject);
    }
}

#[test]
fn another_upload_is_not_taken_for_this_one() {
    for stand in [file(&options()), s3(&options())] {
        let (one, other) = (value(1000), vec![5; 1000]);
        let right = object(1, &one);
        write(&stand.vault, &right, &one).unwrap();
        let exchanged = object(2, &other);
        write(&stand.vault, &exchanged, &other).unwrap();
        fs::copy(path(&stand, &exchanged), path(&stand, &right)).unwrap();
        assert_eq!(class(read(&stand.vault, &right, 0..10)), Class::Damaged);
        write(&stand.vault, &right, &one).unwrap();
        let different: [fn(&mut ColdObject); 5] = [
            |object| object.version.0 += 1,
            |object| object.tenant.0 += 1,
            |object| object.key = "another".into(),
            |object| object.checksum ^= 1,
            |object| object.size -= 1,
        ];
        for change in different {
            let mut other = right.clone();
            change(&mut other);
            assert_eq!(class(read(&stand.vault, &other, 0..10)), Class::Damaged, "{other:?}");
        }
        assert_eq!(read(&stand.vault, &right, 0..1000), Ok(one));
    }
}
