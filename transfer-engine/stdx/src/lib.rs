//! Hand-written lock-free parts that know nothing of the domain.
