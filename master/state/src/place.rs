//! Which segments take the next replicas. A pure choice: candidates in, order out.

use crate::directory::PoolId;
use crate::segments::Segment;
use perilune_protocol::PutConfig;
use std::sync::Arc;

/// How segments are preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Any; spreads load whatever the sizes.
    #[default]
    Random,
    /// A sample of six per replica, the emptiest first.
    FreeRatioFirst,
    /// Segments on the writer's host, then any.
    LocalFirst,
}

impl std::str::FromStr for Placement {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "free-ratio-first" | "free_ratio_first" => Ok(Self::FreeRatioFirst),
            "local-first" | "local_first" => Ok(Self::LocalFirst),
            _ => Err(format!("unknown placement `{text}`: random, free-ratio-first or local-first")),
        }
    }
}

/// Segments of the free-ratio sample, per replica.
const SAMPLE_PER_REPLICA: usize = 6;

/// Orders the segments that may take a replica, best first: those the caller prefers by name, those of its pool, then by the strategy.
/// `host` is the writer's address without port; `draw` a random number.
pub fn order(candidates: &mut [Arc<Segment>], placement: Placement, config: &PutConfig, pool: Option<PoolId>, host: &str, draw: u64) {
    shuffle(candidates, draw);
    match placement {
        Placement::Random => {}
        Placement::FreeRatioFirst => {
            let sample = candidates.len().min(SAMPLE_PER_REPLICA * usize::from(config.replicas.max(1)));
            candidates[..sample].sort_by(|a, b| free_ratio(b).total_cmp(&free_ratio(a)));
        }
        Placement::LocalFirst => candidates.sort_by_key(|s| !is_on(s, host)),
    }
    if pool.is_some() {
        candidates.sort_by_key(|s| s.pool() != pool);
    }
    if !config.preferred_segments.is_empty() {
        let rank = |s: &Arc<Segment>| {
            let desc = s.desc();
            config.preferred_segments.iter().position(|name| *name == desc.name).unwrap_or(usize::MAX)
        };
        candidates.sort_by_key(rank);
    }
}

fn free_ratio(segment: &Segment) -> f64 {
    let space = segment.space();
    1.0 - space.used() as f64 / space.capacity().max(1) as f64
}

fn is_on(segment: &Segment, host: &str) -> bool {
    segment.desc().tcp_endpoint().rsplit_once(':').is_some_and(|(h, _)| h == host)
}

/// Fisher-Yates from one draw, stretched by splitmix64.
fn shuffle<T>(items: &mut [T], draw: u64) {
    let mut state = draw;
    for i in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        items.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
}
