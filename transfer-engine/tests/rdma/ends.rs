//! The devices of the two sides of a test.

/// The kind of devices: soft-RoCE, or what PERILUNE_RDMA_KIND names (`siw`).
pub(crate) fn kind() -> String {
    std::env::var("PERILUNE_RDMA_KIND").unwrap_or_else(|_| "rxe".to_owned())
}

/// Those at these ends of the guest's cables. On a machine without cables, what PERILUNE_RDMA_CLIENT (for `va`) and PERILUNE_RDMA_SERVER (for `vb`)
/// name, or all there are.
pub(crate) fn devices(ends: &[&str]) -> Vec<String> {
    let kind = kind();
    if std::fs::exists(format!("/sys/class/infiniband/{kind}_va")).unwrap_or(false) {
        return ends.iter().map(|end| format!("{kind}_{end}")).collect();
    }
    let side = if ends.contains(&"va") { "PERILUNE_RDMA_CLIENT" } else { "PERILUNE_RDMA_SERVER" };
    std::env::var(side).map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default()
}
