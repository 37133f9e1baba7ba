"""Where a plant hears of verdicts: MQTT, Modbus, GPIO, a webhook, files of lines."""
