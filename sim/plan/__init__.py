"""Many runs at once: sweeps over a grid."""
