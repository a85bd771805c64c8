"""One confined process that holds one plugin's instance. Imports shared, extism and msgpack, nothing else."""
