"""What Triton's stub and the ranks share: settings, the wire, messages, sockets. No torch, no Triton."""
