//! Offload and read-back beside `object_store` used bare, in turns, against one S3 service: medians and their ratio.

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStoreExt, WriteMultipart};
use perilune_protocol::{TenantId, Tso, checksum};
use perilune_vault::{ColdObject, Keys, Options, S3Target, Target, Vault};
use std::error::Error;
use std::time::{Duration, Instant};
use uuid::Uuid;

const ROUNDS: usize = 9;
const PART_BYTES: usize = 8 << 20;
const FLYING_MAX: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, ak, sk, mib] = &words[..] else {
        return Err("throughput ENDPOINT BUCKET AK SK MIB: moves values of MIB mebibytes to and from an S3 service".into());
    };
    let value: Vec<u8> = (0..mib.parse::<u64>()? << 20).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let s3 = S3Target { bucket: bucket.clone(), prefix: String::new(), endpoint: endpoint.clone(), region: String::new(), hosted: false };
    let vault = Vault::open(&Target::S3(s3), &Options { keys: Some(Keys::new(ak, sk)), ..Options::default() })?;
    let builder = AmazonS3Builder::new().with_endpoint(endpoint).with_bucket_name(bucket).with_region("us-east-1");
    let builder = builder.with_access_key_id(ak).with_secret_access_key(sk).with_client_options(ClientOptions::new().with_allow_http(true));
    let bare = builder.build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let path = Path::from("bare");
        let begun = Instant::now();
        runtime.block_on(async {
            let mut upload = WriteMultipart::new_with_chunk_size(bare.put_multipart(&path).await?, PART_BYTES);
            // The copy out of lent memory that an offload makes, too.
            for part in value.chunks(PART_BYTES) {
                upload.wait_for_capacity(FLYING_MAX - 1).await?;
                upload.put(Bytes::copy_from_slice(part));
            }
            upload.finish().await
        })?;
        let bare_put = begun.elapsed();
        let begun = Instant::now();
        let got = runtime.block_on(async { bare.get(&path).await?.bytes().await })?;
        let bare_get = begun.elapsed();
        assert!(got == value);

        let (tenant, version, size) = (TenantId(0), Tso(1), value.len() as u64);
        let object = ColdObject { name: Uuid::new_v4(), tenant, key: "bench".into(), version, size, checksum: checksum(&[&value]) };
        let deadline = || Instant::now() + Duration::from_secs(60);
        let from = value.clone();
        let source = move |at: u64, room: &mut [u8]| {
            room.copy_from_slice(&from[at as usize..][..room.len()]);
            Ok(())
        };
        let begun = Instant::now();
        vault.write_object(&object, Box::new(source), deadline())?;
        let own_put = begun.elapsed();
        let mut got = vec![0; value.len()];
        let mut sink = |at: u64, bytes: &[u8]| {
            got[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        let begun = Instant::now();
        vault.read_object(&object, 0..size, &mut sink, deadline())?;
        let own_get = begun.elapsed();
        assert!(got == value);
        vault.delete(&ColdObject::path(object.name), deadline())?;
        if round > 0 {
            puts.push((bare_put, own_put));
            gets.push((bare_get, own_get));
        }
    }
    for (name, times) in [("offload", puts), ("read-back", gets)] {
        let median = |pick: fn(&(Duration, Duration)) -> Duration| {
            let mut times: Vec<_> = times.iter().map(pick).collect();
            times.sort_unstable();
            value.len() as f64 / times[times.len() / 2].as_secs_f64() / 1e6
        };
        let (bare, own) = (median(|pair| pair.0), median(|pair| pair.1));
        println!("{name:<10} bare {bare:7.0} MB/s   vault {own:7.0} MB/s   {:5.1} %", own / bare * 100.0);
    }
    Ok(())
}
