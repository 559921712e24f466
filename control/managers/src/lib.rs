//! Root and cluster managers: pure state, API and store.
