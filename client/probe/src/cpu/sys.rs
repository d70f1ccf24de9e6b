//! The signal that interrupts whoever uses the CPU: installed, timed, and handled.

use super::sampler::{Interrupted, Sampler};
use framehop::UnwindRegsNative;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::io;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

/// Who takes samples; null is nobody. Sequentially consistent with [`INSIDE`]: a handler that is not counted when this became null has
/// seen, or will see, null.
static ACTIVE: AtomicPtr<Sampler> = AtomicPtr::new(null_mut());
/// Handlers that may be using what [`ACTIVE`] was.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// While it lives, the process is interrupted.
pub(super) struct Alarm {
    /// What [`ACTIVE`] points to.
    _sampler: Arc<Sampler>,
}

impl Alarm {
    /// Interrupts the process `frequency` times for each second of CPU that its threads use together; the kernel's clock may have fewer
    /// ticks. The caller sees to it that there is one at a time.
    pub(super) fn set(sampler: Arc<Sampler>, frequency: u32) -> io::Result<Self> {
        let handler = SigHandler::SigAction(on_tick);
        // Calls that can be are begun anew.
        let action = SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: `on_tick` does only what a signal handler may (see there), and stays installed, so that a late signal finds it.
        unsafe { sigaction(Signal::SIGPROF, &action) }?;
        ACTIVE.store(Arc::as_ptr(&sampler).cast_mut(), Ordering::SeqCst);
        let alarm = Self { _sampler: sampler };
        tick_every(Duration::from_secs(1) / frequency)?;
        Ok(alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Fails for an interval that cannot be only.
        let _ = tick_every(Duration::ZERO);
        ACTIVE.store(null_mut(), Ordering::SeqCst);
        while INSIDE.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn tick_every(interval: Duration) -> io::Result<()> {
    let micros = libc::suseconds_t::from(interval.subsec_micros() as i32);
    let time = libc::timeval { tv_sec: interval.as_secs() as libc::time_t, tv_usec: micros };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: `timer` is a valid timer for the time of the call, and the old one is not asked for.
    let set = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What all threads of this process have used of the CPU, those that ended too.
pub(super) fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a time where there is one; it knows this clock, and 0 stays where it does not.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Runs on a thread that was using the CPU, at any instruction of it: between taking and giving back a lock, in the middle of an allocation.
/// So nothing here allocates, waits for a lock, or leaves another `errno` behind.
extern "C" fn on_tick(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let errno = Errno::last_raw();
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let active = ACTIVE.load(Ordering::SeqCst);
    // SAFETY: the kernel passes the context of what was interrupted.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() };
    // SAFETY: whoever makes `ACTIVE` null waits for `INSIDE` to be 0 before the sampler may go.
    if let (Some(sampler), Some(context)) = (unsafe { active.as_ref() }, context) {
        let (pc, registers) = registers(context);
        sampler.take(Interrupted { pc, registers, thread: thread_name() });
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    Errno::set_raw(errno);
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, UnwindRegsNative) {
    let of = |register: libc::c_int| context.uc_mcontext.gregs[register as usize].cast_unsigned();
    let pc = of(libc::REG_RIP);
    (pc, UnwindRegsNative::new(pc, of(libc::REG_RSP), of(libc::REG_RBP)))
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, UnwindRegsNative) {
    let machine = &context.uc_mcontext;
    (machine.pc, UnwindRegsNative::new(machine.regs[30], machine.sp, machine.regs[29]))
}

/// Of the thread it is called on.
fn thread_name() -> [u8; 16] {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes at most, the last of them zero, where there are 16.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}
