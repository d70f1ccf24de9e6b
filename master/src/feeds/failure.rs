//! Why a changefeed does not get on, in the codes of the documents that its users read.

use perilune_protocol::Fault;
use std::fmt;

/// A code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

macro_rules! codes {
    ($($(#[$on:meta])* $name:ident $text:literal)*) => {
        /// The codes there are. Some of them are for callers only, some are met while a feed runs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $($(#[$on])* $name),* }

        impl Code {
            /// As it is written.
            pub(crate) fn text(self) -> &'static str {
                match self { $($(#[$on])* Self::$name => $text),* }
            }
        }
    };
}

codes! {
    ApiInvalidParam "CDC:ErrAPIInvalidParam"
    SinkUriInvalid "CDC:ErrSinkURIInvalid"
    StartTsBeforeGc "CDC:ErrStartTsBeforeGC"
    NotExists "CDC:ErrChangeFeedNotExists"
    AlreadyExists "CDC:ErrChangeFeedAlreadyExists"
    TargetTsBeforeStartTs "CDC:ErrTargetTsBeforeStartTs"
    FilterRuleInvalid "CDC:ErrFilterRuleInvalid"
    InvalidIgnoreEventType "CDC:ErrInvalidIgnoreEventType"
    UpdateRefused "CDC:ErrChangefeedUpdateRefused"
    CaptureNotExist "CDC:ErrCaptureNotExist"
    SchedulerRequestFailed "CDC:ErrSchedulerRequestFailed"
    InvalidReplicaConfig "CDC:ErrInvalidReplicaConfig"
    SinkUnknownProtocol "CDC:ErrSinkUnknownProtocol"
    SinkInvalidConfig "CDC:ErrSinkInvalidConfig"
    StorageSinkInvalidConfig "CDC:ErrStorageSinkInvalidConfig"
    StorageSink "CDC:ErrStorageSink"
    Overtaken "CDC:ErrStorageSink"
    Webhook "CDC:ErrWebhookSink"
    #[cfg(feature = "kafka")] Kafka "CDC:ErrKafkaSendMessage"
    RowRejected "CDC:ErrSinkRejectedRow"
    CredentialNotFound "CDC:ErrCredentialNotFound"
    Unauthorized "CDC:ErrUnauthorized"
    GetPdClientFailed "CDC:ErrAPIGetPDClientFailed"
    NotReady "CDC:ErrServerIsNotReady"
    Unhealthy "CDC:ErrClusterIsUnhealthy"
    SnapshotLostByGc "CDC:ErrSnapshotLostByGC"
    GcTtlExceeded "CDC:ErrGCTTLExceeded"
    Unretryable "CDC:ErrChangefeedUnretryable"
    Unknown "CDC:ErrUnknown"
}

impl Code {
    pub(crate) fn with(self, message: impl Into<String>) -> Failure {
        Failure { code: self, message: message.into() }
    }

    /// Whether somebody else writes there: it begins anew at once, and will know what the other wrote.
    pub(crate) fn begins_anew(self) -> bool {
        self == Self::Overtaken
    }

    /// Whether trying again cannot help.
    pub(crate) fn lasts(self) -> bool {
        matches!(
            self,
            Self::SnapshotLostByGc
                | Self::GcTtlExceeded
                | Self::StartTsBeforeGc
                | Self::Unretryable
                | Self::SinkUriInvalid
                | Self::InvalidReplicaConfig
                | Self::FilterRuleInvalid
                | Self::SinkUnknownProtocol
                | Self::SinkInvalidConfig
                | Self::StorageSinkInvalidConfig
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]{}", self.code.text(), self.message)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Code::Unknown.with(fault.to_string())
    }
}
