"""What every layer stands on: parameters, names on disk, atomic files, errors. Imports stdlib, pydantic, yaml."""
