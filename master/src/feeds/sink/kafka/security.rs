//! How brokers are known, and how they know us: what the URI says of TLS and SASL, in the words of librdkafka.

use crate::feeds::uri::SinkUri;

/// Files of the masters: those who signed the brokers' certificates, our own, and its key.
const FILES: [(&str, &str); 3] = [("ca", "ssl.ca.location"), ("cert", "ssl.certificate.location"), ("key", "ssl.key.location")];
/// What of this a URI may say.
pub(super) const KNOWN: [&str; 8] =
    ["enable-tls", "ca", "cert", "key", "insecure-skip-verify", "sasl-user", "sasl-password", "sasl-mechanism"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Settings of a producer.
///
/// # Errors
/// What of it cannot be.
pub(super) fn settings(uri: &SinkUri) -> Result<Vec<(&'static str, String)>, String> {
    let flag = |name: &str| match uri.get(name) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(format!("{name} is true or false")),
    };
    let mut set: Vec<_> = FILES.into_iter().filter_map(|(name, setting)| Some((setting, uri.get(name)?.to_owned()))).collect();
    if uri.get("cert").is_some() != uri.get("key").is_some() {
        return Err("cert and key belong together".into());
    }
    let unverified = flag("insecure-skip-verify")? == Some(true);
    let asked = uri.scheme == "kafka+ssl" || unverified || !set.is_empty();
    let tls = match flag("enable-tls")? {
        Some(false) if asked => return Err("enable-tls is false, and something else asks for TLS".into()),
        said => said.unwrap_or(asked),
    };
    if unverified {
        set.push(("enable.ssl.certificate.verification", "false".into()));
    }
    // The query wins, as it does for the protocol.
    let user = uri.get("sasl-user").or(Some(uri.user.as_str()).filter(|user| !user.is_empty()));
    let password = uri.get("sasl-password").or(uri.password.as_deref());
    let sasl = match (user, password, uri.get("sasl-mechanism")) {
        (None, None, None) => false,
        (Some(user), Some(password), mechanism) => {
            let mechanism = mechanism.unwrap_or("PLAIN").to_ascii_uppercase();
            if !MECHANISMS.contains(&mechanism.as_str()) {
                return Err(format!("sasl-mechanism is one of {}", MECHANISMS.join(", ")));
            }
            set.extend([("sasl.mechanism", mechanism), ("sasl.username", user.to_owned()), ("sasl.password", password.to_owned())]);
            true
        }
        _ => return Err("SASL needs sasl-user and sasl-password".into()),
    };
    let protocol = match (tls, sasl) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    set.push(("security.protocol", protocol.into()));
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::config::ClientConfig;
    use rdkafka::producer::{DefaultProducerContext, ThreadedProducer};

    fn said(uri: &str) -> Result<Vec<String>, String> {
        let settings = settings(&SinkUri::parse(uri).unwrap())?;
        Ok(settings.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn a_uri_says_how_brokers_are_known_and_know_us() {
        assert_eq!(said("kafka://h/t").unwrap(), ["security.protocol=plaintext"]);
        for tls in ["kafka+ssl://h/t", "kafka://h/t?enable-tls=true"] {
            assert_eq!(said(tls).unwrap(), ["security.protocol=ssl"], "{tls}");
        }
        assert_eq!(
            said("kafka://h/t?ca=/a&cert=/b&key=/c&insecure-skip-verify=true").unwrap(),
            [
                "ssl.ca.location=/a",
                "ssl.certificate.location=/b",
                "ssl.key.location=/c",
                "enable.ssl.certificate.verification=false",
                "security.protocol=ssl"
            ]
        );
        let by_query = said("kafka://h/t?sasl-user=u&sasl-password=q&sasl-mechanism=scram-sha-512&enable-tls=true").unwrap();
        assert_eq!(by_query, ["sasl.mechanism=SCRAM-SHA-512", "sasl.username=u", "sasl.password=q", "security.protocol=sasl_ssl"]);
        let by_user = said("kafka://u:p@h/t?sasl-password=q").unwrap();
        assert_eq!(by_user, ["sasl.mechanism=PLAIN", "sasl.username=u", "sasl.password=q", "security.protocol=sasl_plaintext"]);
        for wrong in [
            "kafka://h/t?enable-tls=yes",
            "kafka+ssl://h/t?enable-tls=false",
            "kafka://h/t?ca=/a&enable-tls=false",
            "kafka://h/t?cert=/a",
            "kafka://h/t?sasl-user=u",
            "kafka://h/t?sasl-mechanism=plain",
            "kafka://u:p@h/t?sasl-mechanism=gssapi",
        ] {
            assert!(said(wrong).is_err(), "{wrong}");
        }
    }

    /// A library without TLS, or without SCRAM, would refuse them.
    #[test]
    fn the_library_was_built_with_all_of_them() {
        for mechanism in MECHANISMS {
            let uri = SinkUri::parse(&format!("kafka+ssl://h/t?sasl-user=u&sasl-password=p&sasl-mechanism={mechanism}")).unwrap();
            let config: ClientConfig = settings(&uri).unwrap().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            drop(config.create::<ThreadedProducer<DefaultProducerContext>>().unwrap());
        }
    }
}
