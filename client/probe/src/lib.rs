//! What those who watch over a process see of it: how far its life is, whether it is ready, what it spends its time and memory on.
//!
//! ```text
//! whoever starts and stops ─► Life ─► Probe ─► routes.rs  status.rs  store-status, livez, readyz
//!                                                         cpu/       where the time goes
//!                                                         heap.rs    where the memory is
//! ```
//!
//! What a listener serves besides, and says of it all: `described.rs`.

mod cpu;
mod described;
mod front;
mod heap;
mod life;
pub mod loglevel;
pub mod remote;
mod routes;
mod status;
pub mod sync;

pub use cpu::proto;
pub use described::{OPENAPI, Refusing, served, within};
pub use front::Front;
pub use life::{Act, Life, Probe, Stage};
pub use routes::{ROUTES, STAGE, acting, refuse_when_stopping, tiflash};
