"""Another processor, emulated: its system and packages in a cache folder, no root, container or kernel support needed.

An emulator of programs (qemu-user) and a Python of the other architecture are unpacked from Debian's packages, the
runtime's wheels are chosen by pip for that architecture, and this very package is copied beside them. Then the same
command runs there. The one part of the project that uses the network, only where it was asked for by its option.
"""
