"""The configs of many sweep points: exactly what Hydra composes, without composing each one with Hydra."""
