"""The whole work of each job: data, training, tracking, figures. Jobs only call these."""
