//! The control plane from a seed: gateways, managers and a lossy network on virtual time.
