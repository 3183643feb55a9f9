"""Kernel laws: seconds of a kernel from its sizes, a device and few constants, which profiles hold."""
