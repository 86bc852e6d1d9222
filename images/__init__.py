"""Container images from what this machine has: no container engine, no registry, no root.

The Dockerfile is how a release is built. This package makes images of the same layout on a machine that has neither
an engine nor a registry, as the cluster tests do: it copies the running Python with its shared libraries, the locked
packages and the sidecar into layers and writes an archive that `ctr images import`, `docker load` and `skopeo` read.
`python -m images` runs it.

``elf`` finds shared libraries, ``stage`` lays out one layer's files, ``contents`` says what is in each layer and
``archive`` writes layers and images.
"""
