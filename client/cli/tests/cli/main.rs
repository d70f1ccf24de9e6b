//! Real binary, real processes: each command once, bad input, kill -9.
