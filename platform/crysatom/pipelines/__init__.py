"""What a job does from beginning to end: data, training, tracking, figures. Jobs only call these."""
