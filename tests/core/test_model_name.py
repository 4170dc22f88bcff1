"""registry.model_name: what MLflow would refuse when the model is trained is refused in the first second."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.params import load_params

ROOT = Path(__file__).parents[2]
NAMES = [
    *("xtts-finetune", "voice of Anna", "Käthe_2", "a\\b", "a*b", "-", "日本"),
    *("", " ", "\t", ".", "..", "xtts-v2.1", "voices/anna", "/anna", "anna/", "a:b", "100%", "John's voice", 'a "b"'),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_mlflow_takes_it(tmp_path: Path, name: str) -> None:
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["registry"]["model_name"] = name
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    if _mlflow_takes(name):
        assert load_params(path).registry.model_name == name
    else:
        with pytest.raises(UserError) as refused:
            load_params(path)
        [problem] = refused.value.problems
        assert problem.where == f"params.yaml: registry.model_name = {name!r}"
        assert problem.what.startswith("MLflow takes no")
        assert problem.remedy == "correct the value"


@pytest.mark.parametrize("name", [" a", "a ", "a\tb", "two\nlines", "a\0", "x" * 201])
def test_what_breaks_every_line_that_names_it_is_refused_though_mlflow_takes_it(tmp_path: Path, name: str) -> None:
    content: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["registry"]["model_name"] = name
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="more than 200 characters, a line end or the like, or a blank before or after"):
        load_params(path)


def _mlflow_takes(name: str) -> bool:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

    try:
        _validate_model_name(name)
        _validate_logged_model_name(name)
    except MlflowException:
        return False
    return True
