//! Nothing: where the simulation compiles `journal.rs`, this stands for `journal/tests.rs`, whose
//! tests are about real files.
