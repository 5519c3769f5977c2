from django.db import migrations, models

from bloxserver.core.online import AddIndexOnline


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('triggers', '0004_deleted_triggers'),
    ]

    operations = [
        AddIndexOnline(
            model_name='trigger',
            index=models.Index(condition=models.Q(('deleted_at__isnull', False)), fields=['deleted_at'], name='trigger_deleted'),
        ),
        AddIndexOnline(
            model_name='delivery',
            index=models.Index(condition=models.Q(('verdict', 'accepted'), _negated=True), fields=['trigger', 'verdict', '-received_at', '-id'], name='delivery_refused'),
        ),
        AddIndexOnline(
            model_name='moment',
            index=models.Index(condition=models.Q(('outcome', 'fired'), _negated=True), fields=['trigger', 'outcome', '-moment'], name='moment_not_fired'),
        ),
    ]
