"""The pipeline of each job: data, training, tracking, figures. Jobs only call these."""
