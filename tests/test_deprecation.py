import pytest

from galleria.deprecation import rename_deprecated
from galleria.pipelines.releases import Alias
from galleria.serving.config import OLD_NAMES, ServiceConfig


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_config_accepts_old_names(old, new):
    with pytest.warns(FutureWarning, match=f"'{old}' is now '{new}'"):
        config = ServiceConfig(models={"a": "b"}, **{old: 7})
    assert getattr(config, new) == 7


def test_alias_accepts_share():
    with pytest.warns(FutureWarning, match="'share' is now 'canary_weight'"):
        alias = Alias.model_validate({"release": "a@1", "canary": "a@2", "share": 0.25})
    assert alias.canary_weight == 0.25
    assert "share" not in alias.model_dump()


def test_old_and_new_name_together():
    with pytest.raises(ValueError, match="'waiting' is the old name of 'max_concurrent_queries'"):
        rename_deprecated({"waiting": 1, "max_concurrent_queries": 2}, OLD_NAMES)


def test_other_values_pass_unchanged():
    assert rename_deprecated([1], {"a": "b"}) == [1]
    assert rename_deprecated({"c": 1}, {"a": "b"}) == {"c": 1}
