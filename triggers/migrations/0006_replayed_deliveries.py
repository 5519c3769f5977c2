from django.db import migrations, models

from bloxserver.core.online import AddIndexOnline


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('triggers', '0005_long_ledgers'),
    ]

    operations = [
        AddIndexOnline(
            model_name='delivery',
            index=models.Index(condition=models.Q(('replayed_at__isnull', False)), fields=['execution_id'], name='delivery_replayed'),
        ),
    ]
