"""What a PLC sees: the handshake, the Modbus server that shows it, and a coil as the gate."""
