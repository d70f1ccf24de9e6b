//! Where the cold tier of a tenant is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// Where a vault is, as somebody described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultTarget {
    /// A bucket.
    S3(S3Place),
    /// A file system: a directory where `fs_name` is `file:///…`, else HDFS.
    Hdfs(HdfsPlace),
}

/// A bucket of an S3 service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Place {
    /// Its name.
    pub bucket: String,
    /// What all names begin with; may be empty.
    pub prefix: String,
    /// Where the service is called, `host:port`; `http://` stands before it where it speaks no TLS.
    pub endpoint: String,
    /// Where others call it. Kept for those who ask.
    pub external_endpoint: String,
    /// The region requests are signed for.
    pub region: String,
    /// Whose service it is.
    pub provider: Provider,
}

/// Who offers an S3 service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// Alibaba.
    Oss,
    /// Amazon, and all who speak as it does.
    S3,
    /// Tencent.
    Cos,
    /// Huawei.
    Obs,
    /// Baidu.
    Bos,
    /// Google.
    Gcp,
    /// Microsoft, whose service is another.
    Azure,
    /// ByteDance.
    Tos,
}

impl Provider {
    /// Every one, by its number on Doris' page.
    pub const ALL: [Self; 8] = [Self::Oss, Self::S3, Self::Cos, Self::Obs, Self::Bos, Self::Gcp, Self::Azure, Self::Tos];

    /// Its name on that page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oss => "OSS",
            Self::S3 => "S3",
            Self::Cos => "COS",
            Self::Obs => "OBS",
            Self::Bos => "BOS",
            Self::Gcp => "GCP",
            Self::Azure => "AZURE",
            Self::Tos => "TOS",
        }
    }
}

/// A directory of a file system.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HdfsPlace {
    /// The file system: `hdfs://host:port`, or `file:///path`.
    pub fs_name: String,
    /// The folder in it.
    pub prefix: String,
    /// On whose behalf.
    pub user: String,
    /// Where the Kerberos keytab lies; may be empty.
    pub keytab: String,
    /// The Kerberos principal; may be empty.
    pub principal: String,
    /// Other settings of the client.
    pub confs: Vec<(String, String)>,
}

impl fmt::Debug for HdfsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the settings say may be a secret.
        let confs: Vec<&str> = self.confs.iter().map(|(key, _)| key.as_str()).collect();
        let Self { fs_name, prefix, user, keytab, principal, .. } = self;
        let mut shown = f.debug_struct("HdfsPlace");
        shown.field("fs_name", fs_name).field("prefix", prefix).field("user", user).field("keytab", keytab);
        shown.field("principal", principal).field("confs", &confs).finish()
    }
}

impl S3Place {
    /// Whether the service wants the bucket in the host's name (`bucket.endpoint`), not in the path: those of the clouds in China do, under their own
    /// names. What is called by an address or with a port stands in for one, and takes paths; so does a bucket whose dots no certificate covers.
    pub fn is_hosted(&self) -> bool {
        let wants = matches!(self.provider, Provider::Oss | Provider::Cos | Provider::Obs | Provider::Bos | Provider::Tos);
        let host = self.endpoint.rsplit("://").next().unwrap_or_default().trim_end_matches('/');
        let is_name = host.contains('.') && !host.contains(':') && host.parse::<Ipv4Addr>().is_err();
        wants && is_name && !self.bucket.contains('.')
    }
}

impl VaultTarget {
    /// What all names there begin with.
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3(s3) => &s3.prefix,
            Self::Hdfs(hdfs) => &hdfs.prefix,
        }
    }

    /// The bucket and what all names in it begin with.
    pub fn bucket(&self) -> Option<(&str, &str)> {
        match self {
            Self::S3(s3) => Some((&s3.bucket, &s3.prefix)),
            Self::Hdfs(_) => None,
        }
    }

    /// Whether this release can store something there.
    pub fn is_usable(&self) -> bool {
        match self {
            Self::S3(s3) => s3.provider != Provider::Azure,
            Self::Hdfs(hdfs) => hdfs.fs_name.starts_with("file://"),
        }
    }
}

impl fmt::Display for VaultTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(S3Place { bucket, prefix, endpoint, .. }) => write!(f, "s3://{bucket}/{prefix} at {endpoint}"),
            Self::Hdfs(HdfsPlace { fs_name, prefix, .. }) => write!(f, "{}/{prefix}", fs_name.trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_some_clouds_are_part_of_the_hosts_name() {
        let is_hosted = |provider, endpoint: &str, bucket: &str| {
            let [external_endpoint, prefix, region] = [(); 3].map(|()| String::new());
            S3Place { bucket: bucket.into(), prefix, endpoint: endpoint.into(), external_endpoint, region, provider }.is_hosted()
        };
        for endpoint in ["oss-cn-hangzhou.aliyuncs.com", "http://oss-cn-hangzhou.aliyuncs.com/"] {
            assert!(is_hosted(Provider::Oss, endpoint, "kv"), "{endpoint}");
            assert!(!is_hosted(Provider::S3, endpoint, "kv") && !is_hosted(Provider::Gcp, endpoint, "kv"));
        }
        for (endpoint, bucket) in
            [("127.0.0.1:9000", "kv"), ("127.0.0.1", "kv"), ("store.lan:9000", "kv"), ("minio", "kv"), ("", "kv"), ("a.example.com", "k.v")]
        {
            assert!(!is_hosted(Provider::Cos, endpoint, bucket), "{endpoint} {bucket}");
        }
    }
}
