//! One suite for directories and S3: real files, and a real server as a process, that is slow, refuses and dies on demand.

mod damage;
mod faults;
mod names;
mod objects;
mod old;
mod s3d;
mod stand;
