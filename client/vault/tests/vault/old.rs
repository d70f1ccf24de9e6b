//! Bytes of every layout there ever was: they stay readable, and the newest are what is written today.

use crate::stand::{Stand, file, object, options, read, sealed, value, write};
use perilune_protocol::TenantId;
use perilune_protocol::sealed::Sealed;
use perilune_vault::{Bound, ColdObject, Key, Sealer};
use std::fs;

const PLAIN_1: &[u8] = include_bytes!("../old/object_v1.bin");
const SEALED_1: &[u8] = include_bytes!("../old/object_v1_sealed.bin");

fn check(stand: &Stand, bytes: &[u8]) {
    let value = value(100);
    let object = object(0x5f00_0000_0000_4000_8000_0000_0000_0001, &value);
    write(&stand.vault, &object, &value).unwrap();
    let path = stand.files.join(ColdObject::path(object.name));
    assert_eq!(fs::read(&path).unwrap(), bytes, "{:?}", stand.vault);
    fs::write(&path, bytes).unwrap();
    assert_eq!(read(&stand.vault, &object, 0..100), Ok(value));
}

#[test]
fn objects_of_version_1_are_read_and_written() {
    check(&file(&options()), PLAIN_1);
    check(&file(&sealed()), SEALED_1);
}

#[test]
fn a_secret_of_version_1_is_opened() {
    let bytes = vec![123, 54, 24, 128, 230, 255, 210, 4, 166, 43, 66, 62, 32, 221, 16, 143, 170, 211, 174, 126, 140, 32];
    let sealed = Sealed { key: 967_611_811, nonce: [29, 57, 248, 241, 23, 137, 1, 32, 162, 144, 6, 58], bytes };
    let bound = Bound { tenant: TenantId(7), vault: 3, field: "sk" };
    assert_eq!(Sealer::new(Key::new([9; 32]), None).open(bound, &sealed).unwrap().text(), Ok("secret"));
}
