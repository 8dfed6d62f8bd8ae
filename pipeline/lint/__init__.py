"""What a target will refuse, cast, split or not fuse: rules, and the parser where there is one."""
