"""What every layer stands on: constants, parameters, names on disk, atomic files, errors. Imports no room of ours."""
