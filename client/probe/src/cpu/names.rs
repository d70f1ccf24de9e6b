//! The functions that addresses belong to.

use std::collections::HashMap;

/// A place in the source; several stand at one address where calls were inlined.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) function: String,
    pub(super) file: String,
    /// 0: not known.
    pub(super) line: u32,
}

/// Names that were looked up.
#[derive(Default)]
pub(super) struct Names(HashMap<u64, Vec<Place>>);

impl Drop for Names {
    /// What was read of the executables for it is several times the size of a small process.
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}

impl Names {
    /// What is at an address, the innermost first; never nothing.
    pub(super) fn at(&mut self, address: u64) -> &[Place] {
        self.0.entry(address).or_insert_with(|| {
            let mut places = Vec::new();
            backtrace::resolve(address as usize as *mut _, |symbol| {
                let function = symbol.name().map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}"));
                let file = symbol.filename().map(|path| path.display().to_string()).unwrap_or_default();
                places.push(Place { function, file, line: symbol.lineno().unwrap_or(0) });
            });
            if places.is_empty() {
                places.push(Place { function: format!("{address:#x}"), file: String::new(), line: 0 });
            }
            places
        })
    }
}
