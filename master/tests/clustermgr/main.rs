//! The face of CubeFS's cluster manager in front of real masters, alone and three of them.

#[path = "../faces/http.rs"]
mod http;

mod forward;
mod group;
mod join;
mod load;
mod page;
mod restore;
mod steer;
#[path = "../wait/mod.rs"]
mod wait;
mod words;
