"""Child processes and memory: sandbox, allocator settings, the shared record of pictures being processed."""
