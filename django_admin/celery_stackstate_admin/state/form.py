"""The form with which a value or counter is changed: it carries the version of what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from celery_stackstate.keys import MAX_TTL
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.state import entries
from celery_stackstate_admin.state.valuetext import NotAValue, from_text, to_text

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[StateEntry]
else:
    ModelForm = forms.ModelForm

MOST_ROWS = 24


class EntryForm(ModelForm):
    """A value as text, or a counter as a number; and how long it is to live."""

    value: forms.Field = forms.CharField(
        label=_("Value as JSON"),
        strip=False,
        widget=forms.Textarea(attrs={"class": "ss-editor", "spellcheck": "false", "autocomplete": "off"}),
    )
    lifetime = forms.ChoiceField(
        label=_("Expiry"),
        choices=(
            (entries.KEEP, _("leave it as it is")),
            (entries.NEVER, _("never")),
            (entries.AFTER, _("after this many seconds:")),
        ),
        initial=entries.KEEP,
    )
    seconds = forms.FloatField(
        label=_("Seconds until it expires"), required=False, min_value=0.001, max_value=MAX_TTL.total_seconds()
    )
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    #: Whether the entry is another than the one that the form was made for.
    conflict = False

    class Meta:
        model = StateEntry
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        record = self.instance.record
        if record.kind == "counter":
            widget = forms.NumberInput(attrs={"class": "ss-count"})
            self.fields["value"] = forms.IntegerField(
                label=_("Set the counter to"), min_value=INT64_MIN, max_value=INT64_MAX, widget=widget
            )
        text = record.value if record.kind == "counter" else to_text(record.value)
        self.initial.update(value=text, seen=str(record.version))
        if record.kind != "counter":
            self.fields["value"].widget.attrs["rows"] = min(MOST_ROWS, str(text).count("\n") + 3)
        if record.scope.startswith("run:"):
            choices = self.fields["lifetime"]
            assert isinstance(choices, forms.ChoiceField)  # noqa: S101 - for the type checker
            choices.choices = [
                (name, _("as long as the longest kept runs") if name == entries.NEVER else label)
                for name, label in self.fields["lifetime"].choices  # type: ignore[attr-defined]
            ]

    def clean_value(self) -> Any:
        """Return the value that the text describes."""
        given = self.cleaned_data["value"]
        if self.instance.record.kind == "counter":
            return given
        try:
            return from_text(given, limit=entries.limit())
        except NotAValue as error:
            raise ValidationError(str(error), code="invalid") from None

    def clean(self) -> dict[str, Any]:
        """Refuse when the entry has changed since the form was made; the answer is about what it is now."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("lifetime") == entries.AFTER and cleaned.get("seconds") is None and "seconds" not in self.errors:
            self.add_error("seconds", ValidationError(_("Say after how many seconds."), code="required"))
        version = str(self.instance.record.version)
        if cleaned.get("seen") != version:
            self.conflict = True
            data: Any = self.data
            self.data = data = data.copy()
            data["seen"] = version
            self.add_error(
                None,
                ValidationError(
                    _(
                        "Somebody else changed this entry since you opened it. Nothing was saved. "
                        "Compare what it is now with what you wrote; saving again replaces it."
                    ),
                    code="conflict",
                ),
            )
        return cleaned
