"""The `.lic` format as hosts expect a format to behave: translations of `licodec.api`, a module a host."""
