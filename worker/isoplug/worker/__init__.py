"""One confined process that holds one plugin's instance. Imports shared, extism, zmq and msgpack, nothing else."""
