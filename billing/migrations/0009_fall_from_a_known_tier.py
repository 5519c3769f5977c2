from django.db import migrations, models

from bloxserver.core.online import AddCheckOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("billing", "0008_falls_and_unknown_prices")]

    operations = [
        AddCheckOnline(
            model_name="flowcapreview",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("from_tier", ""),
                    ("from_tier__in", ["free", "pro", "enterprise", "high_frequency"]),
                    _connector="OR",
                ),
                name="flowcapreview_from_tier_known",
            ),
        ),
    ]
