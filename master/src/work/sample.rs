//! A small state that leads, for tests of what works on it.

use perilune_protocol::{Capability, Endpoint, Extent, NodeId, Pin, Protocol, ReplicaPlace, SegmentDesc, SegmentId, TenantId, Tso};
use perilune_state::effect::{Effect, ObjectRecord};
use perilune_state::segments::nodes::Said;
use perilune_state::{Applied, State};

pub(crate) const MIB: u64 = 1 << 20;

/// Segments of these sizes, each on a node of its own that is heard, and objects of `size` bytes with copies on the segments of these numbers.
pub(crate) fn sample<const N: usize>(segments: [u64; N], objects: &[(&str, &[usize])], size: u64) -> (State, [SegmentId; N]) {
    lent(segments.map(|bytes| (0, bytes)), objects, size)
}

/// The same with segments that are lent to tenants; an object is of the tenant on whose segment its first copy lies.
pub(crate) fn lent<const N: usize>(segments: [(u32, u64); N], objects: &[(&str, &[usize])], size: u64) -> (State, [SegmentId; N]) {
    let state = State::new(crate::MasterConfig::default().rules());
    let mut ends = [0; N];
    let nodes = [(); N].map(|()| NodeId::random());
    let mut ids = [(); N].map(|()| SegmentId::random());
    ids.sort_unstable();
    for (nth, (tenant, bytes)) in segments.into_iter().enumerate() {
        assert_eq!(state.apply(Effect::lend(TenantId(tenant), "", segment(ids[nth], nodes[nth], bytes)), 1), Applied::Done);
    }
    for (n, (key, on)) in objects.iter().enumerate() {
        let mut place = |nth: &usize| {
            let offset = ends[*nth];
            ends[*nth] += size.next_multiple_of(MIB);
            ReplicaPlace { segment: ids[*nth], extents: vec![Extent { offset, len: size }] }
        };
        let (replicas, wanted) = (on.iter().map(&mut place).collect(), on.len() as u8);
        let (tenant, key, version) = (TenantId(segments[on[0]].0), (*key).into(), Tso(n as u64 + 1));
        let record = ObjectRecord { tenant, key, version, size, checksum: 7, pin: Pin::None, replicas, wanted };
        assert_eq!(state.apply(Effect::Commit(record), 1), Applied::Done);
    }
    state.apply(Effect::TsoLimit(Tso(objects.len() as u64)), 1);
    state.lead(1).unwrap();
    nodes.into_iter().for_each(|node| state.nodes.register(node, Said::default(), 1, 1));
    state.nodes.judge(&state.segments, 1, 1);
    (state, ids)
}

/// Memory that a node lends.
pub(crate) fn segment(id: SegmentId, node: NodeId, size: u64) -> SegmentDesc {
    let endpoints = vec![Endpoint::Tcp("127.0.0.1:1".into())];
    let (location, protocol, capability) = (String::new(), Protocol::Tcp, Capability(1));
    SegmentDesc { id, name: format!("segment {id}"), node, base: 0, size, protocol, location, endpoints, capability }
}
