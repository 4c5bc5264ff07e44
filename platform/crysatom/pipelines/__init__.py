"""What a job does from beginning to end: data, training, tracking, pictures. Jobs only call these."""
