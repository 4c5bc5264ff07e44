"""The loop, and what it needs: loaders, checkpoints, schedules, and the context it runs in. No Ray here."""
