"""Breaking embedmigrate on purpose: killed, stopped, raced and starved runners."""
