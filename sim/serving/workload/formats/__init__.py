"""Layouts of other programs' files, one module each; ``TRACE_FORMATS`` names them."""
