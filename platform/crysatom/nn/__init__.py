"""Network layers on crystal graphs: exact on any number of workers, fast on one."""
