//! The allocator as a library: placeholder while it is split off.
