//! Defects that the simulation must find. One is there only once it is planted; without the feature `simulation` nothing of this is left in the program.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A put is acknowledged before its effect is committed.
    EarlyAnswer,
    /// A dropped tenant is gone as soon as its memory is.
    EarlyEnd,
    /// A copy that is to move goes from where it was before it is elsewhere.
    EarlyDrop,
    /// A changefeed says that it has delivered what its sink has not flushed.
    EarlyCheckpoint,
    /// A changefeed that begins again reads from the end of the log.
    SkippedGap,
    /// A log is cut without a look at what somebody needs of it.
    ForgottenNeed,
    /// Extents are free before the last lease on them has lapsed.
    HastyReuse,
    /// A leader counts on its lease for longer than the others promised.
    LongLease,
    /// Who looks for what nothing refers to in a vault forgets what objects refer to.
    CarelessSweep,
    /// That somebody aborted a put is known to the leader alone.
    ForgottenAbort,
    /// What may be deleted of a vault is said without a look at what checkpoints name.
    ForgottenCheckpoint,
    /// A dump is any snapshot that there is.
    OldDump,
    /// An upload whose node is silent counts as done.
    TrustedSilence,
    /// Entries and votes are answered for before they are on disk.
    Unsynced,
}

impl Defect {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 14] = [
        ("careless-sweep", Self::CarelessSweep),
        ("early-answer", Self::EarlyAnswer),
        ("early-checkpoint", Self::EarlyCheckpoint),
        ("early-drop", Self::EarlyDrop),
        ("early-end", Self::EarlyEnd),
        ("forgotten-abort", Self::ForgottenAbort),
        ("forgotten-checkpoint", Self::ForgottenCheckpoint),
        ("forgotten-need", Self::ForgottenNeed),
        ("hasty-reuse", Self::HastyReuse),
        ("long-lease", Self::LongLease),
        ("old-dump", Self::OldDump),
        ("skipped-gap", Self::SkippedGap),
        ("trusted-silence", Self::TrustedSilence),
        ("unsynced", Self::Unsynced),
    ];
}

#[cfg(feature = "simulation")]
static CHOSEN: std::sync::OnceLock<Defect> = std::sync::OnceLock::new();

/// From here on this is broken.
#[cfg(feature = "simulation")]
pub fn plant(defect: Defect) {
    // The first stands.
    let _ = CHOSEN.set(defect);
}

/// Whether this is broken.
#[cfg(feature = "simulation")]
pub(crate) fn is(defect: Defect) -> bool {
    CHOSEN.get() == Some(&defect)
}

/// Nothing is.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn is(_: Defect) -> bool {
    false
}
