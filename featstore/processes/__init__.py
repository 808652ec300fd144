"""Child processes and the memory of this one: sandbox, allocator, the record of the pictures in hand."""
